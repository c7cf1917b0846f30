with source as (
    {{ landed(source('landing', 'items'), ['item_id'], ['creator_id', 'released_at', 'duration_s', 'genre']) }}
)

select
    day,
    {{ id63('item_id') }} as item_id,
    item_id as landed_item_id,
    {{ id63('creator_id') }} as creator_id,
    creator_id as landed_creator_id,
    {{ id63('genre') }} as genre,
    {{ id63('source_item_id') }} as source_item_id,
    source_item_id as landed_source_item_id,
    duration_s,
    content_embedding,
    released_at
from source
