"""Answers and likelihoods of a model -> scores with intervals, comparisons and reports; torch-free."""
