"""What we expect: one file a model, the contract they obey, how they are judged, and the registry of their versions."""

import settings.config  # noqa: F401  # its import tells MLflow not to report usage, which must happen before MLflow's
