"""Pages that are whole in one file: charts as SVG text and tables, themed by CSS, without script or request.

It stands low because several stages report: evaluation, training, explanation. Loads neither torch nor NumPy.
"""
