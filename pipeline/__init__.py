import providers  # noqa: F401  keeps openvino from telling that it runs
