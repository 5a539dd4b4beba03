"""The cast. Each role is a plain torch class in a file of its own.

Ray is known to on_ray and to what is beside it: placement, session, teacher_trainer, and recovery with what it is made of. Those are,
each on what comes before it: losses (what Ray's errors mean), players (roles with their processes), signs_of_life (who hangs),
waiting, damage (what is found wrong), building, mending, outcomes (a call's value, whatever happens) and recovery itself.
"""
