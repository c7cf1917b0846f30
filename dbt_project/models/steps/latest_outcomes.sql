select
    exposures.day,
    exposures.surface,
    exposures.exposure_id,
    outcomes.name,
    outcomes.value
from {{ ref('stg_exposures') }} as exposures
inner join {{ ref('stg_outcomes') }} as outcomes on exposures.exposure_id = outcomes.exposure_id
where
    {{ built_days('exposures.day') }}
    and {{ built_days('outcomes.day', after=1) }}
    and outcomes.day between exposures.day and exposures.day + 1
qualify row_number() over (
    partition by exposures.day, exposures.surface, exposures.exposure_id, outcomes.name
    order by outcomes.ts desc, outcomes.value desc
) = 1
