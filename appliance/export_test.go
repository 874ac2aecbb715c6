package appliance

// AnswerGrace is how long answers that are being written have when a delegate ends.
const AnswerGrace = answerGrace
