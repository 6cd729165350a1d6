"""The paper's results, to compare with one's own checkpoint; all figures in percent.

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

BENCHMARK_MODELS = ("Mistral-7B-Instruct-v0.2", "FILM-7B")
# Benchmark -> score of each of them. LongBench: F1, ROUGE-L; the others: accuracy.
BENCHMARKS: dict[str, tuple[float, float]] = {
    "narrativeqa": (23.5, 26.9),
    "qasper": (33.8, 42.2),
    "multifieldqa_en": (45.9, 56.0),
    "hotpotqa": (42.4, 62.1),
    "2wikimqa": (24.3, 47.0),
    "musique": (20.8, 39.0),
    "gov_report": (33.3, 33.8),
    "qmsum": (24.8, 25.1),
    "multi_news": (26.8, 26.9),
    "mmlu": (59.3, 59.2),
    "boolq": (85.4, 87.7),
    "race": (46.0, 45.6),
    "csqa": (70.0, 75.3),
    "arc_challenge": (55.9, 52.5),
    "hellaswag": (83.6, 79.1),
    "gsm8k": (40.4, 44.5),
    "math": (8.7, 11.3),
    "ruler_4096": (93.6, 92.8),
    "ruler_8192": (91.2, 88.2),
    "ruler_16384": (87.2, 88.1),
    "ruler_32768": (75.4, 86.9),
    "ruler_65536": (49.0, 70.1),
    "ruler_131072": (13.8, 27.1),
}

# RULER's mean of 13 tasks at 32K tokens, as published by each model's authors or RULER's.
RULER_32K: dict[str, float] = {
    "Mistral-7B-Instruct-v0.2": 75.4,
    "FILM-7B": 86.9,
    "Llama-3.1-8B": 87.4,
    "ProLong": 89.3,
    "Qwen3-8B": 91.2,
}
RULER_32K_NAME = "ruler_32768"
