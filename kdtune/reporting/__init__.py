"""Figures and the HTML page of a study (matplotlib, Jinja2).

- build: report.html and figures/
- answer: sections that answer the study's question
- background: sections on teachers, sensitivity, methods and provenance
- figures: figures of comparisons, repeats and hyperparameters
- frontier: accuracy against the cost of the students
- learning_curves: figures of metrics by epoch
- canvas: style, axes and export of figures
- side_by_side: the page that compares several studies
- page: Jinja2 environment, tables and inlined figures of the page
- templates/: report.html, comparison.html, their macros and style sheet

May import config, statistics, storage and results; never torch or Ray.
"""
