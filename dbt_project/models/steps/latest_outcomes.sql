-- An id may be used again: an outcome belongs to the last exposure of it before, or it would count for two.
with belonging as (
    select
        exposures.day,
        exposures.surface,
        exposures.exposure_id,
        outcomes.name,
        outcomes.value,
        outcomes.ts
    from {{ ref('stg_exposures') }} as exposures
    inner join {{ ref('stg_outcomes') }} as outcomes on exposures.exposure_id = outcomes.exposure_id
    where
        {{ built_days('exposures.day', before=longest_label_window(), after=longest_label_window()) }}
        and {{ built_days('outcomes.day', after=longest_label_window()) }}
        and outcomes.day between exposures.day and exposures.day + {{ label_window_days('exposures.surface') }}
    qualify row_number() over (
        partition by outcomes.day, outcomes.exposure_id, outcomes.name
        order by exposures.ts <= outcomes.ts desc, exposures.day desc
    ) = 1
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
