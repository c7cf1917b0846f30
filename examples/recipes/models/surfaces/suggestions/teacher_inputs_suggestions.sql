with linked as (
    select * exclude (surface) from {{ ref('teacher_inputs') }}
    where surface = 'suggestions'
),

cards as (
    select
        day,
        {{ id63('source_user_id') }} as source_user_id,
        vegetable_share
    from {{ source('landing', 'source_user_profiles') }}
    where {{ built_days() }}
),

kits as (
    select
        day,
        {{ id63('source_item_id') }} as source_item_id,
        vegetable_share,
        price
    from {{ source('landing', 'source_item_profiles') }}
    where {{ built_days() }}
)

select
    linked.*,
    cards.vegetable_share as card_vegetable_share,
    kits.vegetable_share as kit_vegetable_share,
    kits.price as kit_price
from linked
left join cards on linked.day = cards.day and linked.source_user_id = cards.source_user_id
left join kits on linked.day = kits.day and linked.source_item_id = kits.source_item_id
