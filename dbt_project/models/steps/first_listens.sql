-- Of the days around those of this run too: a trail begins and ends with the clicks before and after it.
select
    exposures.day,
    exposures.surface,
    exposures.exposure_id,
    listens.day as listen_day,
    listens.listen_id,
    listens.ts,
    listens.played_ms,
    listens.outcome
from {{ ref('stg_exposures') }} as exposures
inner join {{ ref('stg_listens') }} as listens
    on exposures.exposure_id = listens.exposure_id
where
    {{ built_days('exposures.day', before=1, after=1) }}
    and {{ built_days('listens.day', before=1, after=1) }}
    and listens.day between exposures.day and exposures.day + 1
qualify row_number() over (
    partition by exposures.day, exposures.surface, exposures.exposure_id order by listens.ts, listens.listen_id
) = 1
