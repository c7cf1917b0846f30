{{ daily_counts(['user_id', 'item_id']) }}
