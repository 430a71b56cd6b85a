"""All tests of exported files need onnxruntime."""

import pytest

pytest.importorskip("onnxruntime", reason="pip install -e '.[dev]' brings onnxruntime")
