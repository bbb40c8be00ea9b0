"""Paired statistics: intervals, p-values, clusters, selection and the Pareto front."""
