"""Converters: each module here makes the rows of one data set; README.md is the catalogue."""
