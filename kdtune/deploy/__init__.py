"""Students taken out of their study: exported files, int8, the model card (torch, onnxruntime).

- onnx: ONNX files: export, check against PyTorch, quantization
- export: export of a student of a study: formats, files and checks
- int8: export in int8, and what it costs and gains beside float32
- card: model card of an exported student, and what its file says about itself
- subject: the student that is exported, with its study and data, and the writing of its files

May import every package but reporting, planning and raytune. The packages of the extra
kdtune[export] are imported where they are used.
"""
