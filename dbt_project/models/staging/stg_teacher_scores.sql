with source as (
    {{ landed(source('landing', 'teacher_scores'), ['exposure_id', 'task', 'teacher_version'], ['score']) }}
)

select
    day,
    {{ id63('exposure_id') }} as exposure_id,
    exposure_id as landed_exposure_id,
    task,
    score,
    teacher_version
from source
