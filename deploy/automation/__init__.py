"""Jobs, sensors and schedules: the parts of the graph that people ask for by name, and what asks for them at night.

Files that arrive or change become their days' base tables (`landing_sensor`; `landed_days_sensor` for the days beside
one that did not land), those the ranking tables and soft labels of every day that can see them (`ranking_sensor`).
Another teacher relabels what students train on (`teacher_sensor`). Once a day each surface gets a student of its
newest final day (`<surface>_release_schedule`), where the declared conditions (`conditions.py`) made none as
soon as its data was there. `alert_sensor` tells people of whatever needs one, failed checks of green runs included;
`serving_health_sensor` takes back a champion that the server does not load. All are off until somebody turns them on.
"""
