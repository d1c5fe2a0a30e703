// SPDX-License-Identifier: MIT
// What messages between ranks cost: measured, and drawn as a line.
#pragma once

#include <span>
#include <vector>

#include "quern/distributed/communicator.h"

namespace quern {

// What one rank sends in a call: messages that wait for one another, or for one link, and bytes.
struct Traffic {
  double messages = 0, bytes = 0;
};

// Of a message that one rank sends to the next one.
Traffic message_traffic(double bytes);
// Of Communicator::sum() over so many bytes.
Traffic sum_traffic(i64 ranks, double bytes);
// Of Communicator::exchange() with so many bytes to all other ranks together.
Traffic exchange_traffic(i64 ranks, double bytes);

struct TimedTraffic {
  Traffic traffic;
  double seconds = 0;
};

// alpha: seconds for each message; beta: for each byte (Hockney's model).
struct LinkCost {
  double alpha = 0, beta = 0;
  double seconds(const Traffic& t) const { return alpha * t.messages + beta * t.bytes; }
};

// The line with the least squares of relative errors, so that small messages count as much as large
// ones; neither number is negative. Throws ShapeError without a measurement.
LinkCost fit_link(std::span<const TimedTraffic> measured);

// hidden: the part of a sum's time that disappears behind computing, where there is as much of
// that: the waiting, not the copying.
struct NetworkTimes {
  std::vector<TimedTraffic> message, sum, exchange;
  double hidden = 0;
};
struct NetworkCost {
  LinkCost message, sum, exchange;
  double hidden = 0;
};
NetworkCost fit_network(const NetworkTimes& times);

// Between the first rank and the last one; of sum_gradients(), and of exchange(), among all: the
// median of a few rounds of calls for each of several sizes up to 16 MB, or to where a call takes a
// quarter of a second; and the last of these sums beside as much computing. A call of the whole
// group, which has at least two ranks.
NetworkTimes measure_network(const Communicator& ranks);

}  // namespace quern
