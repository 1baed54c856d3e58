"""A run shown in other trackers as it goes on: each in a process of its own, which can neither slow nor fail the run.

training loop ── points ──> Mirror: bounded, drops and counts ──(pipe)──> process ──> MLflow, W&B, TensorBoard
                               └── events: started, behind, failed, finished
"""
