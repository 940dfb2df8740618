"""mm1-ablate: which part of a multimodal training recipe matters?

Data goes one way: a sweep file becomes a study of trials (`spec`), trials become scores on Ray (`study`, over `data`,
`model`, `training` and `evaluation`), and scores become a comparison (`report`). Nothing below `study` knows Ray or MLflow.
"""

__version__ = "0.1.0"
