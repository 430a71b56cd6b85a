"""Students taken out of their study: exported files, int8, the model card (torch, onnxruntime).

- export: one export, from the study's folder to files in its students/
- subject: the student that is exported, with its study, its data and its input
- graph: the function that is exported, and its input
- formats: the table of formats
- onnx_files: ONNX files: export, metadata, predictions
- study_views: views of the study's data
- check: the same predictions as PyTorch
- recorded: the same predictions as the study recorded
- pillow_check: the same predictions with Pillow's resizing
- quantize: int8 by onnxruntime
- int8: the file in int8, beside float32
- gains: what int8 costs and gains, in numbers and words
- description: what an exported file says about itself
- card, markdown, snippets: the model card, its escaping, its lines of Python
- writing: files written aside, checked and renamed

May import every package but reporting, planning and raytune. The packages of the extra
kdtune[export] are imported where they are used.
"""
