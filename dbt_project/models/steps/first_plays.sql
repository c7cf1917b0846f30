with listens as (
    select * from {{ ref('stg_listens') }}
    where {{ built_days() }}
),

items as (
    select * from {{ ref('feat_item') }}
    where {{ built_days() }}
)

select
    listens.day,
    listens.user_id,
    items.creator_id,
    min(listens.ts) as ts
from listens
inner join items on listens.day = items.day and listens.item_id = items.item_id
group by listens.day, listens.user_id, items.creator_id
