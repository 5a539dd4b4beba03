"""The cast. Each role is a plain torch class in a file of its own; only on_ray, placement, session and teacher_trainer know Ray."""
