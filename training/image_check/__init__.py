"""A check of the good images before the training: which of them may show a defect."""
