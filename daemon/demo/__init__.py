"""The bundled clip, its detector, and a run of the daemon on them for whoever sees it for the first time."""
