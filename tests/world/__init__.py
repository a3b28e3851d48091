"""A drawn world with exact ground truth: pictures, clips and a small detector that the project makes itself."""
