"""An experiment: the placement of evidence decides whether a model can use the middle."""
