-- Of the days around those of this run too: a trail begins and ends with the clicks before and after it.
-- An id may be used again: a listen belongs to the last exposure of it that its own user was shown before.
with belonging as (
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
        on exposures.exposure_id = listens.exposure_id and exposures.user_id = listens.user_id
    where
        {{ built_days('exposures.day', before=longest_label_window(), after=longest_label_window()) }}
        and {{ built_days('listens.day', before=longest_label_window(), after=longest_label_window()) }}
        and listens.day between exposures.day and exposures.day + {{ label_window_days('exposures.surface') }}
    qualify row_number() over (
        partition by listens.day, listens.listen_id order by exposures.ts <= listens.ts desc, exposures.day desc
    ) = 1
)

select * from belonging
qualify row_number() over (partition by day, surface, exposure_id order by ts, listen_id) = 1
