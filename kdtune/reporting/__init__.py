"""Figures and the HTML page of a study (matplotlib).

- build: report.html and figures/
- answer: the sections that answer the study's question
- background: the sections behind the answer
- figures: the figures
- canvas: colours, axes and file formats of figures
- page: pieces of an HTML page

May import config, statistics, storage and results; never torch or Ray.
"""
