"""One file a benchmark, with its peers in the same run."""

from aap.project.loader import current_project

current_project().expose()  # benchmarks import the project's modules by their plain names
