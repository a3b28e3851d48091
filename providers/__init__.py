import sys
from types import ModuleType
from typing import cast

# Importing openvino would tell Google Analytics that, and where, it runs; without this module of its own it can't.
sys.modules["openvino_telemetry"] = cast(ModuleType, None)
