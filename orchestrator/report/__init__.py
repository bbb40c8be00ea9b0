"""`report.html`: a study as one page."""
