"""mm1-ablate: which part of a multimodal training recipe matters?

Data goes one way: a YAML file becomes a study (`config`), the study a plan (`plan`), the plan trials on Ray (`run`, over `data`, `model`,
`training` and `evaluation`) that are kept in a store (`store`), and scores become a comparison (`report`), shown in MLflow (`tracking`).
"""

__version__ = "0.1.0"
