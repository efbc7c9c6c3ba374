"""The KPI tree: what each KPI counts, and how it is judged."""
