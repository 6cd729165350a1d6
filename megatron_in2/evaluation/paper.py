"""What the paper reports, to stand beside a checkpoint of one's own; all figures in percent.

Source: arXiv 2404.16811, figure 1 and tables 2 to 4.
"""

# Average and gap (largest less smallest) over spans of 50 positions, in contexts of 32K tokens.
PROBING: dict[str, dict[str, tuple[float, float]]] = {
    "Mistral-7B-Instruct-v0.2": {
        "document": (74.2, 32.1),
        "code": (20.3, 59.5),
        "database": (47.5, 77.0),
    },
    "GPT-4-Turbo": {"document": (81.3, 31.7), "code": (66.1, 46.5), "database": (89.6, 18.0)},
    "FILM-7B": {"document": (85.4, 6.1), "code": (83.3, 18.7), "database": (89.0, 16.8)},
}
PROBING_TASKS = ("document", "code", "database")
