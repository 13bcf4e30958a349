package bake

import "context"

// Expire does at once what Run does each hour, slowly.
func (c *Cache) Expire(ctx context.Context) error { return c.expire(ctx, nil) }
