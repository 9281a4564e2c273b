"""A trained network in the form that an engine wants: ONNX files, INT8 quantisation, engines' own formats."""
