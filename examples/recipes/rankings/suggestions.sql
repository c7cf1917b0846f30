-- Every recipe for everybody who signed up, as somebody who cooks for two would ask at six in the evening.
select distinct
    users.user_id,
    items.item_id,
    2 as guests,
    18 as hour
from landing.users
cross join landing.items
where users.day <= {day} and items.day <= {day}
