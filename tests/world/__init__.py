"""A drawn world with exact ground truth: pictures, clips and a small detector that we make ourselves."""
