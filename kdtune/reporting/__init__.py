"""Figures and the HTML page of a study (matplotlib, Jinja2).

- build: the report of a study or of several, and what a notebook shows of a study
- sections: sections of the report: results in, texts and tables out
- canvas: style and export of figures, and the HTML page that holds them
- figures: figures of a study or of several: dataframes in, matplotlib figures out, no global state

May import config, statistics, storage and results; never torch or Ray.
"""
