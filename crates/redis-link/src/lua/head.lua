-- The beginning of every step on the publications stream: what the head says, and whether the
-- caller may go on from there. Behind call.lua.
-- KEYS: 1 head
-- ARGV: 1 the server that the caller speaks to ("run"), 2 and 3 the newest epoch and number that
--       the caller knows

local function entry_id(epoch, number) return string.format('%.0f-%.0f', epoch, number) end

local head = call('HMGET', KEYS[1], 'epoch', 'number', 'run', 'previous')
local epoch, number = whole(head[1]), whole(head[2])
local known_epoch, known_number = tonumber(ARGV[2]), tonumber(ARGV[3])

-- An epoch holds on one run of one server. What another run left (a restart, a failover, a
-- snapshot), or what is behind the caller, may lack entries that sites have: its next numbers may
-- have been given to other frames.
local sound = epoch and number and head[3] == ARGV[1]
    and (epoch > known_epoch or (epoch == known_epoch and number >= known_number))
