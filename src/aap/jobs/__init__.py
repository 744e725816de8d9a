"""Jobs: resumable runs of steps, their schedule, and what several pipelines share."""
