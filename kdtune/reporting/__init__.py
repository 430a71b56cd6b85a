"""Figures and the HTML page of a study (matplotlib, Jinja2).

- build: report.html and figures/
- identity: the head of the page: date, machine, versions, fingerprints
- facts: what was studied
- answer: sections that answer the study's question
- choices: comparisons by other metrics and with other baselines
- classes: sections on accuracy by class and confusions
- examples: section on the images on which both arms differ most
- teacher_history: section on the teachers' accuracy and history
- background: sections on sensitivity, methods and provenance
- glossary: the page's terms in plain words
- figures: figures of comparisons, repeats and hyperparameters
- class_figures: figures of confusion and calibration
- frontier: accuracy against the cost of the students
- learning_curves: figures of metrics by epoch
- frame: limits of an axis that one wild line does not set
- hover: titles of the elements of a figure
- canvas: style, axes and export of figures
- side_by_side: the page that compares several studies
- plots: figures as `Results.plot` returns them
- notebook: a study as a notebook shows it
- page: Jinja2 environment, tables and inlined figures of the page
- templates/: report.html, comparison.html, notebook.html, their macros, style sheet and script

May import config, statistics, storage and results; never torch or Ray.
"""
