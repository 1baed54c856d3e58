"""The report of a study: pure computation from facts, one module that reads them, and what serves it.

    reading, study_reading ──> facts ──> comparability ──> scoring ──> main_table, comparisons, diversity, curves
                                  └────> costs, provenance                        └────> report ──> rendering

The schema of what comes out is `service.contract.study_report`; docs/study-report.md has formulas and rules.
"""
