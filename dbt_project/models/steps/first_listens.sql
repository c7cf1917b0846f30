-- Of the days around those of this run too: a trail begins and ends with the clicks before and after it.
with belonging as (
    {{
        belonging(
            'stg_listens',
            key=['day', 'listen_id'],
            columns=['day as listen_day', 'listen_id', 'ts', 'played_ms', 'outcome'],
            same_user=true
        )
    }}
)

select * from belonging
qualify row_number() over (partition by day, surface, exposure_id order by ts, listen_id) = 1
