import os

# torch's threads wait for more work by turning in place, for a millisecond and longer, on the very cores that
# OpenVINO's then want. A tenth of that is enough for a step of ours. It is read once, when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")
