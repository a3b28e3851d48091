import os

# torch's threads wait for more work by turning in place, for a millisecond and longer, on the very cores that
# OpenVINO's then want. A tenth of that is enough for a step of ours. It is read once, when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

# oneDNN keeps the code that it has made for each shape of matrices, and here every number of rows is another shape: for
# up to 1024 of them, if nobody says otherwise.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
