{{ daily_counts(['item_id']) }}
