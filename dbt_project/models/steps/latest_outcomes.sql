with belonging as (
    {{ belonging('stg_outcomes', key=['day', 'exposure_id', 'name', 'ts'], columns=['name', 'value', 'ts']) }}
)

select
    day,
    surface,
    exposure_id,
    name,
    value
from belonging
where {{ built_days() }}
qualify row_number() over (partition by day, surface, exposure_id, name order by ts desc, value desc) = 1
