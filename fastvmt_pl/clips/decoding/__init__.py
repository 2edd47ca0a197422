"""The decoding process. It only imports this folder, numpy, PyAV and decord."""
