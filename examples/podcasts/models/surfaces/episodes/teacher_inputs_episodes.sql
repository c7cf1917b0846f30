select * exclude (surface)
from {{ ref('teacher_inputs') }}
where surface = 'episodes'
