"""A run on its way to other tools, gathered over the API: a Hugging Face folder, MLflow, TensorBoard.

What writes another tool's format imports that tool in its own module, and only when it is asked to.
"""
