"""The cast. Each role is a plain torch class in a file of its own.

Ray is known to on_ray and to what is beside it: placement, session, recovery, losses and teacher_trainer.
"""
